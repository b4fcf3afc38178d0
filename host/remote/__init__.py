"""Capabilities that another kernel serves: called like those of this process, over gRPC with mutual TLS."""
