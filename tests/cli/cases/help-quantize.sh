fitq quantize --help
