fitq pad model --tp 2; echo $?
fitq pad model -o out; echo $?
fitq unpad model; echo $?
fitq verify a; echo $?
fitq completion tcsh; echo $?
fitq help pda; echo $?
