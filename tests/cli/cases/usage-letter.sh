fitq pad model -z
