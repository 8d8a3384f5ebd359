fitq $'pl\e[31man'; fitq plan x --engine $'v\x07'
