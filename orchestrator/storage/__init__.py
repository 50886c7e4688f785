"""One view of folders and S3 buckets: objects, commit markers, leases."""
