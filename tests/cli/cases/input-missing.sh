fitq inspect nowhere; echo $?
fitq plan nowhere; echo $?
fitq pad nowhere -o out --tp 2; echo $?
fitq unpad nowhere -o out; echo $?
fitq verify --weights nowhere nowhere; echo $?
ls
