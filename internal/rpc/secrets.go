package rpc

import (
	"cmp"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// minSecret is the shortest value that is searched for in messages. Shorter
// ones are words or numbers that occur by chance; the shortest CHAP secret is
// 12 bytes (RFC 7143, section 12.1.3 asks for 96 bits).
const minSecret = 8

const stripped = "***stripped***" // as protosanitizer writes it

// withoutSecrets takes the request's secrets out of a message, because a host
// tool may quote its input in what it prints and an error carries that to the
// log, to the orchestrator's events and to the user (FM 40).
func withoutSecrets(st *status.Status, secrets []string) *status.Status {
	if len(secrets) == 0 {
		return st
	}
	slices.SortFunc(secrets, func(a, b string) int { return cmp.Compare(len(b), len(a)) }) // a secret that begins another goes last
	pairs := make([]string, 0, 2*len(secrets))
	for _, s := range secrets {
		pairs = append(pairs, s, stripped)
	}
	p := st.Proto()
	p.Message = strings.NewReplacer(pairs...).Replace(p.GetMessage())
	return status.FromProto(p)
}

// secretsOf lists the values of the request's fields that the specification
// marks with the option csi_secret.
func secretsOf(req any) []string {
	msg, ok := req.(proto.Message)
	if !ok {
		return nil
	}
	var found []string
	msg.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		secret, isBool := proto.GetExtension(field.Options(), csi.E_CsiSecret).(bool)
		if !isBool || !secret || !field.IsMap() {
			return true
		}
		v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
			if s, isString := v.Interface().(string); isString && len(s) >= minSecret {
				found = append(found, s)
			}
			return true
		})
		return true
	})
	return found
}
