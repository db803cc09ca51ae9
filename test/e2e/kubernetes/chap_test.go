//go:build e2e

package kubernetes_test

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
)

// secretWithCHAP is the one that the shipped Role lets the provisioner read.
const secretWithCHAP = "datera-csi-chap"

// FM 40: the example with CHAP works as it is shipped, mutual, and one-way without its two keys *_in. The provisioner
// reads the Secret by the shipped Role, the kubelet by the reference in the PersistentVolume, the sessions have its
// users, and its passwords show in no object but itself and in no log of the driver.
func TestCHAPOfTheExample(t *testing.T) {
	r := useCluster(t)
	r.show("apply", "-f", examples("storageclass-chap.yaml"))
	t.Cleanup(func() {
		defer r.outlive()()
		r.show("delete", "-f", examples("storageclass-chap.yaml"))
	})
	passwords := r.passwords()
	if len(passwords) != 2 {
		t.Fatalf("the example has %d passwords, want one of the node and one of the array", len(passwords))
	}

	r.useCHAP("mutual", "mchap", "kubernetes array", passwords)
	r.kubectl("patch", "secret", secretWithCHAP, inDriver, "--type=json", "-p",
		`[{"op": "remove", "path": "/data/node.session.auth.username_in"}, {"op": "remove", "path": "/data/node.session.auth.password_in"}]`)
	r.useCHAP("one-way", "chap", "kubernetes", passwords)
}

// passwords are those of the Secret.
func (r *room) passwords() []string {
	r.Helper()
	var secret struct{ Data map[string][]byte }
	if err := r.Get(r.ctx, &secret, "secret", secretWithCHAP, inDriver); err != nil {
		r.Fatal(err)
	}
	var all []string
	for key, value := range secret.Data {
		if strings.Contains(key, "password") {
			all = append(all, string(value))
		}
	}
	return all
}

// useCHAP has a pod use a volume of the class, and deletes both. The array must ask for the type of CHAP, and every
// session of the node have the users, who are those of node and array.
func (r *room) useCHAP(name, kind, users string, passwords []string) {
	r.Helper()
	r.apply(strings.Replace(claim(name, 2, once), "storageClassName: datera", "storageClassName: datera-chap", 1), pod(name, name, ""))
	r.ready(name)
	sum := r.fill(name)
	r.expectRows(name, sum)

	var auth struct {
		Type string `json:"type"`
	}
	if err := r.Array.REST(r.ctx, http.MethodGet, "/app_instances/"+r.app(name)+"/storage_instances/storage-1/auth", nil, &auth); err != nil {
		r.Fatal(err)
	}
	if auth.Type != kind {
		r.Errorf("%s: the array's type of CHAP is %q, want %s", name, auth.Type, kind)
	}
	out, err := r.node(name).Shell(r.ctx, `cd /sys/class/iscsi_session; for s in *; do echo "$(cat $s/username) $(cat $s/username_in)"; done | sort -u`)
	if got := strings.TrimSpace(strings.ReplaceAll(string(out), "(null)", "")); err != nil || got != users { // the kernel's word for none
		r.Errorf("%s: the sessions have the users %q, want %q: %v", name, got, users, err)
	}
	r.expectNowhere(passwords, r.field("{.spec.volumeName}", "pvc", name))

	r.kubectl("delete", "pod", name)
	r.kubectl("delete", "pvc", name)
	r.expect("", "{.items[*].metadata.name}", "pv")
}

// expectNowhere looks for passwords, plain and as Secrets have them, in what the cluster shows of a volume and in the
// driver's logs.
func (r *room) expectNowhere(passwords []string, volume string) {
	r.Helper()
	shown := map[string]string{
		"objects": r.show("get", "pv,pvc,volumeattachments,events", "--all-namespaces", "-o", "yaml"),
		"logs":    r.show("logs", inDriver, "--selector=app.kubernetes.io/name=datera-csi", "--all-containers", "--prefix", "--tail=-1"),
	}
	for what, text := range shown {
		if !strings.Contains(text, volume) {
			r.Errorf("the %s say nothing of %s:\n%s", what, volume, tailOf(text, 600))
		}
		for _, password := range passwords {
			if strings.Contains(text, password) || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte(password))) {
				r.Errorf("a password is in the %s", what)
			}
		}
	}
	if !strings.Contains(shown["objects"], secretWithCHAP) {
		r.Errorf("no PersistentVolume names the Secret %s", secretWithCHAP)
	}
}

// show runs kubectl without the test's namespace, for what is in others.
func (r *room) show(args ...string) string {
	r.Helper()
	out, err := r.Kubectl(r.ctx, args...)
	if err != nil {
		r.Fatal(err)
	}
	return out
}
