. $DATA/models.sh
make() { rm -rf m && python3 $tools/st_to_bin.py $t m ${1:-1} && cp $t/tokenizer.json m; }
change() { python3 - "$@" <<'P'
import sys
name, old, new = sys.argv[1], sys.argv[2].encode(), sys.argv[3].encode()
data = open(name, 'rb').read()
assert old in data and len(old) == len(new)
open(name, 'wb').write(data.replace(old, new))
P
}
make && truncate -s -100 m/pytorch_model.bin && runs && says
make && truncate -s 100 m/pytorch_model.bin && runs
make && : > m/pytorch_model.bin && runs
make && change m/pytorch_model.bin torch._utils torch_.utils && runs && says
make && change m/pytorch_model.bin model.norm.weight model.form.weight && runs
make 3 && rm m/pytorch_model-00002-of-00003.bin && runs && says
make 3 && cp m/pytorch_model-00001-of-00003.bin m/pytorch_model-00002-of-00003.bin && runs
