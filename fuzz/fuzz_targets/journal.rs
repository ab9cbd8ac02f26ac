#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| adapters::email_domains::embedded::fuzz::journal(bytes));
