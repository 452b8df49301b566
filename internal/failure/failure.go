// Package failure is the one error type of the content pipeline: what went
// wrong in words for the user, a reason for programs, and a class that says
// what helps.
package failure

import (
	"errors"
	"fmt"
)

// Class says what helps against a failure.
type Class string

const (
	// Spec means that only an edit of the object helps; it is not tried again.
	Spec Class = "Spec"
	// Upstream means that the other side has to change something (401, 404, a wrong digest);
	// it is looked at again at each interval.
	Upstream Class = "Upstream"
	// Waiting means that something that is named is not there yet; it is looked for soon.
	Waiting Class = "Waiting"
	// Transient is a timeout, 429 or 5xx: it is tried again with growing pauses, for ever.
	Transient Class = "Transient"
)

// Reason is a word in CamelCase for conditions, events and metrics.
type Reason string

// Reasons of a plugin that cannot be had. The API documents them under the
// same names.
const (
	InvalidReference     Reason = "InvalidReference"
	SecretNotFound       Reason = "SecretNotFound"
	InvalidSecret        Reason = "InvalidSecret"
	Unauthorized         Reason = "Unauthorized"
	NotFound             Reason = "NotFound"
	Unreachable          Reason = "Unreachable"
	UntrustedCertificate Reason = "UntrustedCertificate"
	ForbiddenAddress     Reason = "ForbiddenAddress"
	TooManyRequests      Reason = "TooManyRequests"
	RegistryError        Reason = "RegistryError"
	DigestMismatch       Reason = "DigestMismatch"
	Truncated            Reason = "Truncated"
	NoWasmLayer          Reason = "NoWasmLayer"
	UnsupportedArtifact  Reason = "UnsupportedArtifact"
	NotWasm              Reason = "NotWasm"
	TooLarge             Reason = "TooLarge"
	StoreFull            Reason = "StoreFull"
	SignatureMissing     Reason = "SignatureMissing"
	SignatureInvalid     Reason = "SignatureInvalid"
	UnsupportedImports   Reason = "UnsupportedImports"
	InvalidList          Reason = "InvalidList"
	UnknownRelease       Reason = "UnknownRelease"
	ConfigMapNotFound    Reason = "ConfigMapNotFound"
	InvalidConfigMap     Reason = "InvalidConfigMap"
	InternalError        Reason = "InternalError"
)

// Reasons lists every reason.
var Reasons = []Reason{
	InvalidReference, SecretNotFound, InvalidSecret, Unauthorized, NotFound, Unreachable,
	UntrustedCertificate, ForbiddenAddress, TooManyRequests, RegistryError, DigestMismatch,
	Truncated, NoWasmLayer, UnsupportedArtifact, NotWasm, TooLarge, StoreFull, SignatureMissing, SignatureInvalid, UnsupportedImports,
	InvalidList, UnknownRelease,
	ConfigMapNotFound, InvalidConfigMap, InternalError,
}

// Error is a failure with its class and reason. Message is a sentence for the
// user: what, where, why, what to do; it never holds a credential.
type Error struct {
	Class   Class
	Reason  Reason
	Message string
	Err     error
}

// New makes an Error. err is the cause, for logs and errors.Is; it may be nil
// and is not part of the message.
func New(class Class, reason Reason, err error, format string, args ...any) *Error {
	return &Error{Class: class, Reason: reason, Message: fmt.Sprintf(format, args...), Err: err}
}

// Error is the message for the user.
func (e *Error) Error() string { return e.Message }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Of finds the Error in err. An error without one is Transient and
// InternalError: nobody foresaw it, so it is tried again and shown as it is.
func Of(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Class: Transient, Reason: InternalError, Message: err.Error(), Err: err}
}
