use lock_runtime::KeyPart;

#[derive(KeyPart)]
enum Region {
    Europe,
    Other(String),
}

fn main() {
    let _ = [Region::Europe, Region::Other(String::new())];
}
