"""A crawl: search answers page after page, within quotas, into a database that remembers how far it is."""
