fitq eval --help
