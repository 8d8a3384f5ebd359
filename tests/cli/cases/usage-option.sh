fitq pad model -o out --layuot tail
