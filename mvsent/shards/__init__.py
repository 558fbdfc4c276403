"""A dataset on disk: schema, writer, reader, manifest, card."""
