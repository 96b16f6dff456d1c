use aya::{EbpfLoader, Btf, programs::*};
use ipc_trace_common::{hooks, op::Abi, state};
#[path="kernel/layout.rs"] mod layout;
fn main() {
    let layout = layout::Layout::from_file(std::path::Path::new(layout::KERNEL_BTF)).unwrap();
    let raw = std::env::args().nth(1).as_deref()==Some("raw");
    let c = layout.constants(!raw);
    let d = hooks::dispatch(Abi::X86_64);
    let a = hooks::any(&d);
    let btf = Btf::from_sys_fs().unwrap();
    let mut l = EbpfLoader::new();
    let compat=2u32; let x86=1u32; let me=std::process::id();
    l.btf(Some(&btf)).override_global("FIELDS",&c,true).override_global("DISPATCH",&d,true).override_global("DISPATCH_ANY",&a,true)
     .override_global("COMPAT_BIT",&compat,true).override_global("IS_X86",&x86,true).override_global("SELF_PID",&me,true);
    let mut e = l.load(aya::include_bytes_aligned!(env!("IPC_TRACE_EBPF_OBJECT"))).unwrap();
    for (p,_) in e.programs() { println!("{p}"); }
    let mut gate: aya::maps::Array<_,u32> = e.take_map("GATE").unwrap().try_into().unwrap();
    gate.set(0,1,0).unwrap();
    let _ = state::gate::OPEN;
    let names = [("process_exit","sched_process_exit"),("process_exec","sched_process_exec"),("task_newtask","task_newtask"),("sys_enter","sys_enter"),("sys_exit","sys_exit")];
    let want: Vec<String> = std::env::args().skip(2).collect();
    for (n,t) in names { if !want.iter().any(|w| w==n) { continue; }
        let r: Result<(),ProgramError> = if raw { let p: &mut RawTracePoint = e.program_mut(&format!("{n}_raw")).unwrap().try_into().unwrap(); p.load().and_then(|_| if want.iter().any(|w| w=="noattach") {Ok(())} else {p.attach(t).map(|_|())}) }
        else { let p: &mut BtfTracePoint = e.program_mut(n).unwrap().try_into().unwrap(); p.load(t,&btf).and_then(|_| if want.iter().any(|w| w=="noattach") {Ok(())} else {p.attach().map(|_|())}) };
        match r { Ok(())=>{ let i=e.program(&if raw {format!("{n}_raw")} else {n.into()}).unwrap().info().unwrap(); println!("{n} ok insns {:?} jited {:?} xlated {:?}", i.verified_instruction_count(), i.size_jitted(), i.size_translated()) }
          Err(ProgramError::LoadError{io_error,verifier_log})=>{ let s=format!("{verifier_log}"); println!("{n}: {io_error}\n{}", &s[s.len().saturating_sub(3500)..]); }
          Err(x)=>println!("{n} {x:?}") }
    }
    if want.iter().any(|w| w=="census") { let p: &mut Iter = e.program_mut("census").unwrap().try_into().unwrap();
    match p.load("task",&btf) { Ok(())=>println!("census ok {:?}", p.info().unwrap().verified_instruction_count()), Err(ProgramError::LoadError{io_error,verifier_log})=>{ let s=format!("{verifier_log}"); println!("census: {io_error}\n{}", &s[s.len().saturating_sub(3500)..]); } Err(x)=>println!("{x:?}") } }
    let mut ring: aya::maps::RingBuf<_> = e.take_map("EVENTS").unwrap().try_into().unwrap();
    let mut ctl: aya::maps::RingBuf<_> = e.take_map("CONTROL").unwrap().try_into().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(2));
    let mut n=0; while let Some(i)=ring.next() { if n<3 {println!("{:?}", &i[..]);} n+=1; }
    let mut m=0; while let Some(i)=ctl.next() { if m<4 {println!("{:?}", &i[..100.min(i.len())]);} m+=1; }
    println!("{n} events {m} control");
}
