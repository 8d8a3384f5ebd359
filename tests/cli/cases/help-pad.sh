fitq pad --help
