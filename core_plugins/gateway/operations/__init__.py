"""What fills the pipeline's slots."""
