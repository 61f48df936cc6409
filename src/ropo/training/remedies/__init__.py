"""Remedies for what preference training does wrong: other losses, anchors, averages and limits, one idea a file."""
