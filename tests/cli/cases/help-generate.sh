fitq generate --help
