package kube_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/datera-csi/datera-csi/internal/kube"
)

const inUse = `"status":{"volumesInUse":["` + volume + `","kubernetes.io/csi/other.example^x"]}`

// FM 37: an upgrade of the plugin on a node that stays does not wait for volumes.
func TestAnUpgradeOfThePluginWaitsForNothing(t *testing.T) {
	for name, text := range map[string]string{
		"volumes in use":   `{"spec":{},` + inUse + `}`,
		"a taint of other": `{"spec":{"taints":[{"key":"gpu","effect":"NoSchedule"}]},` + inUse + `}`,
		"a node not ready": `{"spec":{},"status":{"volumesInUse":["` + volume + `"],"conditions":[{"type":"Ready","status":"Unknown","message":"Kubelet stopped posting node status."}]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			a := &api{node: node(t, text)}
			if err := start(t, a).Hold(t.Context()); err != nil || a.reads != 1 {
				t.Errorf("Hold = %v after %d looks, want nil after one", err, a.reads)
			}
		})
	}
}

// FM 37: the plugin of a node that leaves outlives the last volume.
func TestThePluginOfALeavingNodeOutlivesItsVolumes(t *testing.T) {
	for name, text := range map[string]string{
		"cordoned":        `{"spec":{"unschedulable":true},` + inUse + `}`,
		"being deleted":   `{"metadata":{"deletionTimestamp":"2026-11-24T09:00:00Z"},` + inUse + `}`,
		"announced":       `{"spec":{"taints":[{"key":"going/away","effect":"NoSchedule"}]},` + inUse + `}`,
		"shutting down":   `{"status":{"volumesInUse":["` + volume + `"],"conditions":[{"type":"Ready","status":"False","reason":"KubeletNotReady","message":"node is shutting down"}]}}`,
		"attached, early": `{"spec":{"unschedulable":true},"status":{"volumesAttached":[{"name":"` + volume + `","devicePath":""}]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			a := &api{node: node(t, text)}
			a.onRead = func(a *api) {
				if a.reads == 3 {
					a.node["status"] = map[string]any{"volumesInUse": []any{"kubernetes.io/csi/other.example^x"}}
				}
			}
			if err := start(t, a).Hold(t.Context()); err != nil || a.reads != 4 {
				t.Errorf("Hold = %v after %d looks, want nil after the fourth", err, a.reads)
			}
		})
	}
}

// FM 37: the wait is bounded, and says what it was for.
func TestVolumesThatStayAreNamedAtTheEnd(t *testing.T) {
	g := start(t, &api{node: node(t, `{"spec":{"unschedulable":true},`+inUse+`}`)})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err := g.Hold(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "CSI-pvc-1") || strings.Contains(err.Error(), "other.example") {
		t.Errorf("Hold = %v, want a deadline that names our volume only", err)
	}
}

func TestAnAPIThatFailsMeanwhileIsAskedAgain(t *testing.T) {
	a := &api{node: node(t, `{"spec":{"unschedulable":true},`+inUse+`}`)}
	a.onRead = func(a *api) {
		if a.reads == 1 {
			a.down = true
			time.AfterFunc(50*time.Millisecond, func() {
				a.set(func(a *api) { a.down = false; delete(a.node, "status") })
			})
		}
	}
	if err := start(t, a).Hold(t.Context()); err != nil {
		t.Errorf("Hold = %v", err)
	}
}

func TestANodeThatIsGoneFromTheAPINeedsNoWaiting(t *testing.T) {
	if err := start(t, &api{}).Hold(t.Context()); err != nil {
		t.Errorf("Hold = %v", err)
	}
}

func TestTheStartupTaintGoesWhenTheDriverIsRegistered(t *testing.T) {
	const taints = `{"spec":{"unschedulable":false,"taints":[
		{"key":"gpu","value":"a","effect":"NoSchedule","timeAdded":"2026-11-24T09:00:00Z","later":"kept"},
		{"key":"driver/starting","effect":"NoSchedule"},{"key":"driver/starting","effect":"NoExecute"}]}}`
	a := &api{node: node(t, taints)}
	a.onRead = func(a *api) {
		if a.reads == 1 {
			a.version++ // somebody else changes the node between our read and our patch
		}
	}
	began := time.Now()
	time.AfterFunc(30*time.Millisecond, func() { a.set(func(a *api) { a.drivers = []string{} }) })
	time.AfterFunc(60*time.Millisecond, func() { a.set(func(a *api) { a.drivers = []string{"other.example", driver} }) })
	if err := start(t, a).Admit(t.Context(), "driver/starting"); err != nil {
		t.Fatal(err)
	}
	if time.Since(began) < 60*time.Millisecond {
		t.Error("the taint was removed before the driver was registered")
	}
	want := []string{`{"taints":[{"effect":"NoSchedule","key":"gpu","later":"kept","timeAdded":"2026-11-24T09:00:00Z","value":"a"}]}`}
	if d := cmp.Diff(a.patches, want); d != "" {
		t.Errorf("patches: got (-), want (+):\n%s", d)
	}
}

func TestANodeWithoutTheTaintIsNotChanged(t *testing.T) {
	a := &api{node: node(t, `{"spec":{"taints":[{"key":"gpu"}]}}`), drivers: []string{driver}}
	if err := start(t, a).Admit(t.Context(), "driver/starting"); err != nil || a.patches != nil {
		t.Errorf("Admit = %v, patches %v", err, a.patches)
	}
}

func TestAdmitEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := start(t, &api{}).Admit(ctx, "driver/starting"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Admit = %v", err)
	}
}

func TestRefusalsSayWhatTheAPISaid(t *testing.T) {
	a := &api{node: map[string]any{}}
	server := httptest.NewTLSServer(a)
	defer server.Close()
	dir := serviceAccount(t, server)
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte("of another"), 0o600); err != nil {
		t.Fatal(err)
	}
	client, err := kube.New(server.URL, dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Node(t.Context(), "n1")
	if err == nil || !strings.Contains(err.Error(), "401 Unauthorized") || strings.Contains(err.Error(), "of another") {
		t.Errorf("got %v", err)
	}
}

// FM 37: a pod outlives the CA that it began with.
func TestARotatedCAIsTakenWithoutARestart(t *testing.T) {
	server := httptest.NewTLSServer(&api{node: node(t, `{"spec":{}}`)})
	defer server.Close()
	dir := serviceAccount(t, server)
	file := filepath.Join(dir, "ca.crt")
	current, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err = os.WriteFile(file, another(t), 0o600); err != nil {
		t.Fatal(err)
	}
	client, err := kube.New(server.URL, dir)
	if err != nil {
		t.Fatal(err)
	}
	g := kube.Guard{API: client, Node: "n1", Driver: driver, Every: time.Millisecond}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err = g.Hold(ctx); err == nil {
		t.Fatal("a server of another CA was believed")
	}
	if err = os.WriteFile(file, current, 0o600); err != nil {
		t.Fatal(err)
	}
	if err = g.Hold(t.Context()); err != nil {
		t.Errorf("Hold = %v, with the new CA in the file", err)
	}
}

// another is the certificate of an authority that signed nothing here.
func another(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestWhatNewRefuses(t *testing.T) {
	server := httptest.NewTLSServer(&api{})
	defer server.Close()
	dir := serviceAccount(t, server)
	for _, address := range []string{"http://10.0.0.1:443", "10.0.0.1", ""} {
		if _, err := kube.New(address, dir); err == nil || !strings.Contains(err.Error(), "https://HOST:PORT") {
			t.Errorf("New(%q) = %v", address, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.crt"), []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := kube.New(server.URL, dir); err == nil || !strings.Contains(err.Error(), "holds no certificate") {
		t.Errorf("got %v", err)
	}
}

func TestInCluster(t *testing.T) {
	for _, c := range []struct{ host, port, want string }{
		{"10.96.0.1", "443", "https://10.96.0.1:443"},
		{"fd00::1", "443", "https://[fd00::1]:443"},
		{"", "443", ""},
	} {
		if got := kube.InCluster(c.host, c.port); got != c.want {
			t.Errorf("InCluster(%q, %q) = %q, want %q", c.host, c.port, got, c.want)
		}
	}
}
