//! Message: an e-mail as the bytes that go over the wire.

use std::time::SystemTime;

use lettre::Message;
use lettre::address::Envelope;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{self, MultiPart};

use super::Email;

/// Who it goes to, and all of its bytes.
///
/// # Errors
/// Why it cannot be written down, for people.
pub(super) fn written(email: &Email) -> Result<(Envelope, Vec<u8>), String> {
    let mut message = Message::builder()
        .from(email.from.clone())
        .to(email.to.clone())
        .subject(email.subject.clone())
        .message_id(Some(format!("<{}>", email.message_id)))
        .date(SystemTime::from(email.date))
        // So that a mailbox's holiday notice does not answer.
        .raw_header(plain_header("Auto-Submitted", "auto-generated"));
    if let Some(reply_to) = &email.reply_to {
        message = message.reply_to(reply_to.clone());
    }
    if let Some(url) = &email.unsubscribe {
        message = message.raw_header(plain_header("List-Unsubscribe", &format!("<{url}>")));
    }
    let wrong = |why: String| format!("the e-mail cannot be written: {why}");
    let said = MultiPart::alternative_plain_html(email.text.clone(), email.html.clone());
    let body = match &email.attachment {
        None => said,
        Some(file) => {
            let kind = ContentType::parse(file.content_type).map_err(|error| wrong(error.to_string()))?;
            let file = message::Attachment::new(file.name.clone()).body(file.bytes.clone(), kind);
            MultiPart::mixed().multipart(said).singlepart(file)
        }
    };
    let message = message.multipart(body).map_err(|error| wrong(error.to_string()))?;
    Ok((message.envelope().clone(), message.formatted()))
}

fn plain_header(name: &'static str, value: &str) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value.to_owned())
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::mailer::Attachment;

    fn email() -> Email {
        Email {
            from: "Acme <billing@acme.example>".parse().unwrap(),
            reply_to: None,
            to: "ada@example.com".parse().unwrap(),
            subject: "Grüße\r\nBcc: eve@example.com".to_owned(),
            text: "Hello.\n.\nQUIT\n".to_owned(),
            html: "<p>Hello.</p>".to_owned(),
            message_id: "ot_eml_1@acme.example".to_owned(),
            date: DateTime::UNIX_EPOCH,
            attachment: None,
            unsubscribe: None,
        }
    }

    #[test]
    fn a_subject_cannot_add_a_header_and_nobody_else_gets_it() {
        let (envelope, bytes) = written(&email()).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert!(!text.lines().any(|line| line.starts_with("Bcc:")), "{text}");
        assert_eq!(envelope.to().len(), 1);
    }

    #[test]
    fn the_message_id_and_the_date_are_ours() {
        let text = String::from_utf8(written(&email()).unwrap().1).unwrap();
        assert!(text.contains("Message-ID: <ot_eml_1@acme.example>\r\n"), "{text}");
        assert!(text.contains("Date: Thu, 01 Jan 1970 00:00:00 +0000\r\n"), "{text}");
        assert!(text.contains("Auto-Submitted: auto-generated\r\n"), "{text}");
        assert!(!text.contains("List-Unsubscribe"), "{text}");
    }

    #[test]
    fn a_file_stands_beside_both_ways_to_read_it() {
        let bytes = b"%PDF-1.4 \x00\xff".to_vec();
        let name = "invoice-A-1.pdf".to_owned();
        let attachment = Some(Attachment { name, content_type: "application/pdf", bytes });
        let unsubscribe = Some("mailto:bye@acme.example".to_owned());
        let text =
            String::from_utf8(written(&Email { attachment, unsubscribe, ..email() }).unwrap().1).unwrap();
        let kinds =
            ["multipart/mixed", "multipart/alternative", "text/plain", "text/html", "application/pdf"];
        assert!(kinds.iter().all(|kind| text.contains(kind)), "{text}");
        assert!(text.contains("filename=\"invoice-A-1.pdf\"") && text.contains("JVBERi0xLjQgAP8="), "{text}");
        assert!(text.contains("List-Unsubscribe: <mailto:bye@acme.example>\r\n"), "{text}");
    }
}
