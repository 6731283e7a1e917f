# A client by libnbd: reads, writes, zeroes, discards and flushes a range of its own until a file appears. Run by nbdsh, with
# SEED, OFFSET, LENGTH, STOP and RESULT set (soak-clients.ts).
import os
import random

draw = random.Random(SEED)
# The longest read there is: it takes one place among those that may be held, in however many pieces it is done.
PIECE = 32 * 1024 * 1024
model = bytearray(b"".join(h.pread(min(PIECE, LENGTH - at), OFFSET + at) for at in range(0, LENGTH, PIECE)))
acts = 0
while not os.path.exists(STOP):
    acts += 1
    count = draw.randint(1, 65536) if draw.random() < 0.4 else 512 * draw.randint(1, 16)
    at = draw.randint(0, LENGTH - count)
    act = draw.choice(["read", "read", "write", "write", "fua", "zero", "trim", "flush"])
    if act == "read":
        assert h.pread(count, OFFSET + at) == model[at:at + count], (act, count, at)
    elif act in ("write", "fua"):
        data = draw.randbytes(count)
        h.pwrite(data, OFFSET + at, nbd.CMD_FLAG_FUA if act == "fua" else 0)
        model[at:at + count] = data
    elif act == "zero":
        h.zero(count, OFFSET + at)
        model[at:at + count] = bytes(count)
    elif act == "trim":
        h.trim(count, OFFSET + at)
        now = h.pread(count, OFFSET + at)
        for byte in range(count):
            assert now[byte] in (0, model[at + byte]), (act, count, at, byte)
        model[at:at + count] = now
    else:
        h.flush()
open(RESULT, "wb").write(model)
print(f"{acts} acts of libnbd")
