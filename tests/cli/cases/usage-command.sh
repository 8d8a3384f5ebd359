fitq paln config.json
