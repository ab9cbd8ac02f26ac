//! The program as it is called.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

#[test]
fn power_fails_as_often_as_it_is_told_to() {
    let output = Command::new(env!("CARGO_BIN_EXE_torture"))
        .args(["power-loss", "--seed", "1", "--power-losses", "40"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8(output.stdout).unwrap();
    let losses = told.split("power_losses: ").nth(1).unwrap();
    let losses: u64 = losses.split(',').next().unwrap().parse().unwrap();
    assert!(losses >= 40, "{told}");
}
