use lock_runtime::KeyPart;

#[derive(KeyPart)]
#[key_part(rename = "x")]
struct Price(u64);

fn main() {
    let _ = Price(1);
}
