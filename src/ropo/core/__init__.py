"""What every room may use: errors, files, records and intervals; it knows no model."""
