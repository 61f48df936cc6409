"""Language models: loading, templates, tokens, log-probs and sampling."""
