use lock_runtime::KeyPart;

#[derive(KeyPart)]
union Bits {
    number: u8,
}

fn main() {
    let _ = Bits { number: 1 };
}
