fitq help
