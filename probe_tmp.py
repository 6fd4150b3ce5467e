import sys; sys.path.insert(0,"/tmp/faults")
if __name__=="__main__":
    from probe import *
    import torch
    P=Path("/tmp/faults/probe")
    from tests.forked import run_forked
    ck=P/"base"/"ck"
    e=train(name="base")
    src=ck/"checkpoint_last.pt"
    sys.path.insert(0,"/work/h/faults")
    from revcol_nlp.safe_loading import allow_fairseq_globals
    allow_fairseq_globals()
    state=torch.load(src)
    def gen(name, mutate=None, data=DATA, *a, raw=None):
        f=P/name; shutil.rmtree(f,ignore_errors=True); f.mkdir(parents=True)
        s=torch.load(src)
        if raw is not None: (f/"c.pt").write_bytes(raw)
        else:
            r=mutate(s) if mutate else s
            torch.save(s if r is None else r, f/"c.pt")
        e=run_forked("fairseq-generate", data, "--user-dir","revcol_nlp","--cpu","--beam","1","--path",f/"c.pt",*a,folder=f)
        print("GEN",name,"|",e.status,"|",e.last_line[-300:],flush=True)
        return e
    e=gen("ok")
    gen("list", lambda s: [1,2])
    gen("int", lambda s: 5)
    gen("tensor", lambda s: torch.zeros(3))
    gen("nomodel", lambda s: s.pop("model") and None)
    gen("nocfg", lambda s: s.pop("cfg") and None)
    gen("cfgnone", lambda s: s.update(cfg=None))
    gen("cfgint", lambda s: s.update(cfg=3))
    gen("modelint", lambda s: s.update(model=3))
    gen("modellist", lambda s: s.update(model=[3]))
    gen("noopt", lambda s: s.pop("optimizer_history") and None)
    gen("noextra", lambda s: s.pop("extra_state") and None)
    gen("notaskcfg", lambda s: s["cfg"].pop("task") and None)
    gen("nomodelcfg", lambda s: s["cfg"].pop("model") and None)
    k=[k for k in state["model"] if k.endswith("gamma")][0]
    gen("missingkey", lambda s: s["model"].pop(k) is None)
    def f(s): s["model"]["extra.weight"]=torch.zeros(2)
    gen("extrakey", f)
    def f(s): s["model"][k]=torch.zeros(3)
    gen("shape", f)
    def f(s): s["model"][k]="text"
    gen("strweight", f)
    def f(s): s["model"][k]=s["model"][k].to(torch.int64)
    gen("intweight", f)
    def f(s): s["model"][k]=s["model"][k]*float("nan")
    gen("nanweight", f)
    def f(s): s["model"][k]=torch.complex(s["model"][k],s["model"][k])
    gen("complexweight", f)
    raw=src.read_bytes()
    gen("trunc", raw=raw[:10000]); gen("empty", raw=b""); gen("text", raw=b"hello"*50)
    b=bytearray(raw); b[5000]^=1; gen("flip", raw=bytes(b))
    # data
    def data(name, mutate):
        d=P/("d"+name); shutil.rmtree(d,ignore_errors=True); shutil.copytree(DATA,d); mutate(d); return d
    def d_(fn): 
        return lambda d: fn(d)
    t="test.src-tgt.src"
    gen("nodata", None, "/nowhere")
    gen("bintrunc", None, data("bintrunc", lambda d: os.truncate(d/f"{t}.bin", 100)))
    gen("binempty", None, data("binempty", lambda d: os.truncate(d/f"{t}.bin", 0)))
    gen("idxtrunc", None, data("idxtrunc", lambda d: os.truncate(d/f"{t}.idx", 100)))
    gen("idxtrunc10", None, data("idxtrunc10", lambda d: os.truncate(d/f"{t}.idx", 10)))
    gen("idxempty", None, data("idxempty", lambda d: os.truncate(d/f"{t}.idx", 0)))
    gen("idxgarbage", None, data("idxgarbage", lambda d: (d/f"{t}.idx").write_bytes(b"x"*1000)))
    gen("nobin", None, data("nobin", lambda d: os.remove(d/f"{t}.bin")))
    def f(d): 
        p=d/f"{t}.bin"; b=bytearray(p.read_bytes()); b[7]=0x7f; p.write_bytes(b)
    gen("binbig", None, data("binbig", f))
    def f(d): 
        p=d/f"{t}.bin"; b=bytearray(p.read_bytes()); b[1]=0xff; p.write_bytes(b)
    gen("binbad", None, data("binbad", f))
    dct=(DATA/"dict.src.txt").read_text()
    def D(name, text):
        def f(d):
            for l in ("src","tgt"): (d/f"dict.{l}.txt").write_bytes(text if isinstance(text,bytes) else text.encode())
        gen("dict"+name, None, data("dict"+name, f))
    L=dct.splitlines(True)
    D("short","".join(L[:-1])); D("perm","".join(L[::-1])); D("dup","".join(L+L[:1])); D("noline","".join(L)+"word\n"); D("nonint","".join(L)+"word x\n"); D("empty",""); D("utf8",dct.encode()+b"\xff\xfe 1\n"); D("nul",dct.encode()+b"a\0b 1\n"); D("neg","".join(L[:-1])+L[-1].split()[0]+" -5\n")
    gen("unknownopt", None, DATA, "--nonsense","1")
    gen("subset", None, DATA, "--gen-subset","nope")
    gen("beam0", None, DATA, "--beam","0")
    gen("beam-1", None, DATA, "--beam","-1")
    gen("maxtok0", None, DATA, "--max-tokens","0")
    gen("maxtok-5", None, DATA, "--max-tokens","-5")
    gen("bs-5", None, DATA, "--batch-size","-5")
    gen("nopath", None, DATA, "--path","/nowhere/x.pt")
    gen("src", None, DATA, "--source-lang","xx")
