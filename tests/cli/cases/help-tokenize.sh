fitq tokenize --help
