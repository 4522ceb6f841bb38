"""Records and tables in files, folders and data sets of the hub; whatever cannot be read is refused with its place.

May import what `data` may.
"""
