fitq
