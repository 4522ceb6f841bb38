"""What is read, and what is made to be read: files of any kind, documents, images, tasks.

May import `config` and what stands below it.
"""
