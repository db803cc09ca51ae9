package controller

import (
	"fmt"
	"strings"

	"github.com/datera-csi/datera-csi/internal/chap"
)

// ParameterDocs renders what classes and the provisioner's secret may hold, as
// Markdown. docs/parameters.md is its output.
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
The file system is chosen by ` + "`csi.storage.k8s.io/fstype`" + `: ` + "`xfs`" + ` or ` + "`ext4`" + `. Without it a new volume gets xfs, and one that holds either is mounted as what it holds. The keys ` + "`fs_type` and `fs_args`" + ` of the vendor's driver never had an effect; here they are an error.

File systems are made without discards, and with features that Linux 5.10 mounts, so that a volume moves between nodes of different age; a newer feature in ` + "`mkfsOptions`" + ` needs a newer ` + "`oldestKernel`" + `. The options are checked before the volume is made, for the file system that the claim asks for; only a volume that is proven empty is ever formatted. Options of mount are ` + "`mountOptions`" + ` of the StorageClass; those that would mount something else, or stop the node, are refused.

Sizes are whole GiB, rounded up, from 1 to ` + fmt.Sprint(int64(maxSize)) + ` GiB; a claim without a size gets ` + fmt.Sprint(int64(defaultSize)) + ` GiB.

A volume that exists already under the claim's name is taken when everything the array shows of it is as the class asks; else the claim waits with an error that names the difference.

The end of an app instance's description, behind ` + "`--`" + `, is where the driver notes what the array has no field for: the source of a clone, limits per GiB, ` + "`retain-offline`" + `. Leave it as it is when you edit the words before it.

## Volumes from snapshots and volumes

A claim with a ` + "`dataSource`" + ` gets a clone that is as large as the source or larger, with the pool, placement, limits, CHAP and description of its class; a smaller one is refused. The class must not name another backend than the source's. With ` + "`template`" + `, the clone gets what the template says.

## App templates

With ` + "`template`" + `, the template decides about replicas, placement, pool and limits as far as the class does not name them, and the claim's size replaces the template's. With ` + "`disable_template_override`" + ` the template decides about everything, and the claim must ask for its size. A CHAP secret is added to what the template makes. The template, which may be one of a parent tenant, must describe one storage instance with one volume; else nothing is made and the claim gets an error that names them.

## CHAP

The secret named by ` + "`csi.storage.k8s.io/provisioner-secret-name`" + ` turns CHAP on for the volumes of the class; the same secret is named by ` + "`csi.storage.k8s.io/node-stage-secret-name`" + ` for the login.

| key | meaning |
|---|---|
`)
	for _, s := range []struct{ key, meaning string }{
		{chap.User, "User the initiator presents: a letter or `_`, then letters, digits, `_`, `-`, `.`; 3 to 64 in all."},
		{chap.Password, "Its password: 12 to 16 printable ASCII characters without spaces."},
		{chap.UserIn, "For mutual CHAP: user the target presents."},
		{chap.PasswordIn, "For mutual CHAP: its password, another one."},
	} {
		fmt.Fprintf(&b, "| `%s` | %s |\n", s.key, s.meaning)
	}
	b.WriteString(`
# VolumeAttributesClass parameters

These keys may be changed while a volume is used, with the values that they have in a StorageClass: ` + "`" + strings.Join(mutable(), "`, `") + "`" + `. A key that the class leaves out keeps its value. ` + "`replica_count`" + ` only goes up. Everything is checked before anything is changed.

# VolumeSnapshotClass parameters

| key | value | meaning |
|---|---|---|
`)
	for _, p := range snapshotParameters() {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", p.key, p.values, p.help)
	}
	return b.String()
}
