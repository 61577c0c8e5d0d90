//! Compiles the library that is preloaded into nodes of their own process, see `src/process/shim.rs`.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=shim/shim.c");
    let library = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?).join("shim.so");
    if env::var_os("CARGO_CFG_TARGET_OS").is_none_or(|system| system != "linux") {
        // Elsewhere the lab says that it can spoil neither disks nor clocks.
        return Ok(fs::write(library, [])?);
    }
    let mut compile = cc::Build::new().get_compiler().to_command();
    compile.args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-U_FORTIFY_SOURCE", "shim/shim.c", "-o"]);
    let status = compile.arg(&library).arg("-ldl").status()?;
    if status.success() { Ok(()) } else { Err(format!("{compile:?}: {status}").into()) }
}
