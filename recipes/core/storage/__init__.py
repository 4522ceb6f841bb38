"""What lies on the disk and whether it can be trusted: checksums, seals of finished runs, fingerprints of content."""
