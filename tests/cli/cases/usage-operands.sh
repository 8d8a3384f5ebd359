fitq plan; echo $?
fitq plan a b; echo $?
fitq verify --weights a; echo $?
fitq inspect --; echo $?
