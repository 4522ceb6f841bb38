"""What is read, and what is made to be read: files of any kind, documents, images.

May import `config` and what stands below it.
"""
