fitq help families; fitq help engines; fitq help formats
