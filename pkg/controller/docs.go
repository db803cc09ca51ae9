package controller

import (
	"fmt"
	"strings"
)

// ParameterDocs renders what a StorageClass and its provisioner secret may hold,
// as Markdown. docs/parameters.md is its output.
func ParameterDocs() string {
	var b strings.Builder
	b.WriteString(`# StorageClass parameters

<!-- Made from the tables in pkg/controller; "go test ./pkg/controller -run Docs -update" writes it anew. -->

A key that is not in this table is an error that lists the known ones, so a misspelt key never goes unnoticed. Values are strings: write ` + "`\"3\"`, not `3`" + `.

| key | value | default | meaning |
|---|---|---|---|
`)
	for _, p := range volumeParameters() {
		preset := ""
		if p.preset != "" {
			preset = "`" + p.preset + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", p.key, p.values, preset, p.help)
	}
	b.WriteString(`
The file system is chosen by ` + "`csi.storage.k8s.io/fstype`" + `: ` + "`xfs`" + ` or ` + "`ext4`" + `. The keys ` + "`fs_type` and `fs_args`" + ` of the vendor's driver never had an effect; here they are an error.

Sizes are whole GiB, rounded up, from 1 to ` + fmt.Sprint(int64(maxSize)) + ` GiB; a claim without a size gets ` + fmt.Sprint(int64(defaultSize)) + ` GiB. The limits per GiB are computed once, from the size the volume is made with.

A volume that exists already under the claim's name is taken when everything the array shows of it is as the class asks; else the claim waits with an error that names the difference.

## App templates

With ` + "`template`" + `, the template alone decides about replicas, placement, pool and limits; a CHAP secret is added to what it makes. It must describe one storage instance with one volume, else nothing is made and the claim gets an error that names it. The claim's size replaces the template's unless ` + "`disable_template_override`" + ` is true.

## CHAP

The secret named by ` + "`csi.storage.k8s.io/provisioner-secret-name`" + ` turns CHAP on for the volumes of the class; the same secret is named by ` + "`csi.storage.k8s.io/node-stage-secret-name`" + ` for the login.

| key | meaning |
|---|---|
`)
	for _, s := range []struct{ key, meaning string }{
		{secretUser, "User the initiator presents: a letter or `_`, then letters, digits, `_`, `-`, `.`; 3 to 64 in all."},
		{secretPassword, "Its password: 12 to 16 printable ASCII characters without spaces."},
		{secretUserIn, "For mutual CHAP: user the target presents."},
		{secretPasswordIn, "For mutual CHAP: its password, another one."},
	} {
		fmt.Fprintf(&b, "| `%s` | %s |\n", s.key, s.meaning)
	}
	return b.String()
}
