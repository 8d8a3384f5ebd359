# the scripts must at least be scripts, and complete what they claim
fitq completion bash > c; bash -n c && source ./c
complete_it() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _fitq; echo "${COMPREPLY[*]}"; }
complete_it fitq p
complete_it fitq pad --lay
complete_it fitq pad --layout in
complete_it fitq plan --format bf16,gptq-
complete_it fitq help fo
fitq completion zsh | head -3; fitq completion fish | head -3
