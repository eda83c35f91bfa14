//! An authenticator in software, for tests: it answers as a browser with one would, well or badly.

use data_encoding::BASE64URL_NOPAD;
use kakuremichi_proto::identity::sha256;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use serde_json::{Value, json};

const USER_PRESENT: u8 = 0x01;
const USER_VERIFIED: u8 = 0x04;
const ATTESTED: u8 = 0x40;

/// One passkey.
pub(crate) struct SoftKey {
    id: [u8; 16],
    pair: EcdsaKeyPair,
    handle: Option<String>,
    /// The origin that the browser is at.
    pub(crate) origin: String,
    /// The host that the passkey belongs to.
    pub(crate) host: String,
    /// How often it signed.
    pub(crate) counter: u32,
    /// Whether it knows its person.
    pub(crate) verifies: bool,
    /// Whether it says whose it is.
    pub(crate) says_whose: bool,
}

impl SoftKey {
    pub(crate) fn new() -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref(), &random);
        Self {
            id: crate::service::random().unwrap(),
            pair: pair.unwrap(),
            handle: None,
            origin: "https://control.example.net".to_owned(),
            host: "control.example.net".to_owned(),
            counter: 0,
            verifies: true,
            says_whose: true,
        }
    }

    /// What `navigator.credentials.create()` makes with these options.
    pub(crate) fn create(&mut self, options: &Value) -> Value {
        let public = &options["publicKey"];
        self.handle = Some(public["user"]["id"].as_str().unwrap().to_owned());
        let mut data = self.data(ATTESTED);
        data.extend([0; 16]);
        data.extend(u16::try_from(self.id.len()).unwrap().to_be_bytes());
        data.extend(self.id);
        // ES256 on P-256 (RFC 9053, sections 2.1 and 7.1), after which come the coordinates.
        let point = self.pair.public_key().as_ref();
        data.extend([0xa5, 0x01, 0x02, 0x03, 0x26, 0x20, 0x01, 0x21, 0x58, 0x20]);
        data.extend(&point[1..33]);
        data.extend([0x22, 0x58, 0x20]);
        data.extend(&point[33..]);
        let mut object = b"\xa3\x63fmt\x64none\x67attStmt\xa0\x68authData\x58".to_vec();
        object.push(u8::try_from(data.len()).unwrap());
        object.extend(data);
        json!({
            "id": encoded(&self.id), "rawId": encoded(&self.id), "type": "public-key",
            "clientExtensionResults": {}, "authenticatorAttachment": "platform",
            "response": {
                "attestationObject": encoded(&object),
                "clientDataJSON": encoded(&self.client_data("webauthn.create", public)),
                "transports": ["internal"],
            },
        })
    }

    /// What `navigator.credentials.get()` gives for these options.
    pub(crate) fn get(&mut self, options: &Value) -> Value {
        self.counter += 1;
        let client = self.client_data("webauthn.get", &options["publicKey"]);
        let data = self.data(0);
        let signed = [data.as_slice(), &sha256(&client)].concat();
        let signature = self.pair.sign(&SystemRandom::new(), &signed).unwrap();
        json!({
            "id": encoded(&self.id), "rawId": encoded(&self.id), "type": "public-key",
            "clientExtensionResults": {},
            "response": {
                "authenticatorData": encoded(&data),
                "clientDataJSON": encoded(&client),
                "signature": encoded(signature.as_ref()),
                "userHandle": self.handle.as_ref().filter(|_| self.says_whose),
            },
        })
    }

    fn data(&self, more: u8) -> Vec<u8> {
        let verified = if self.verifies { USER_VERIFIED } else { 0 };
        let mut data = sha256(self.host.as_bytes()).to_vec();
        data.push(USER_PRESENT | verified | more);
        data.extend(self.counter.to_be_bytes());
        data
    }

    fn client_data(&self, kind: &str, public: &Value) -> Vec<u8> {
        let challenge = &public["challenge"];
        let data = json!({"type": kind, "challenge": challenge, "origin": self.origin, "crossOrigin": false});
        data.to_string().into_bytes()
    }
}

fn encoded(bytes: &[u8]) -> String {
    BASE64URL_NOPAD.encode(bytes)
}
