"""Where the bytes are: files of the data folder, or an S3 API."""
