fitq --version; fitq version
