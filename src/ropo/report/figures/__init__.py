"""The figures of the page, made by plotly from the typed result."""
