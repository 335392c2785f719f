"""Plan in, FileSet out: typed tokens printed by Jinja2 templates."""
