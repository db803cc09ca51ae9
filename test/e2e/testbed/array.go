package testbed

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/datera-csi/datera-csi/test/e2e/vm"
)

// dataBytes is the array's capacity for real bytes; volumes are sparse, so the disk may be smaller than they are.
const dataBytes = 64 << 30

// ArraySpec is the guest that plays the array.
func ArraySpec() vm.Spec {
	return vm.Spec{
		Name: "array", MemoryMB: 2048,
		Disks:  []vm.Disk{{Name: "data", Bytes: dataBytes}},
		OnBoot: "if [ -x /etc/testbed ]; then /etc/testbed; fi",
	}
}

// Array is the guest that plays the array.
type Array struct {
	*vm.Guest

	lab      *vm.Lab
	Backends string // directory on this host for --backends-dir
}

// StartArray starts datera-sim, which is that file of this host, in a guest made to ArraySpec, and fetches the
// backend directory that it offers.
func StartArray(ctx context.Context, lab *vm.Lab, guest *vm.Guest, sim string, cfg Config) (*Array, error) {
	a := &Array{Guest: guest, lab: lab}
	if err := a.PutFile(ctx, sim, "/usr/local/bin/datera-sim"); err != nil {
		return nil, err
	}
	access := fmt.Sprintf("--access-ip=%s --access-ip=%s", a.Addr(0), a.Addr(1))
	if cfg.SinglePath {
		access = fmt.Sprintf("--access-ip=%s", a.Addr(0))
	}
	script := fmt.Sprintf(`#!/bin/sh -e
disk=/dev/disk/by-id/virtio-data
data=/dev/mapper/data
modprobe dm_mod
[ -e $data ] || dmsetup create data --table "0 $(blockdev --getsz $disk) linear $disk 0"
blkid -p $data >/dev/null 2>&1 || mkfs.xfs -q -K $data
mountpoint -q /data || { mkdir -p /data; mount $data /data; }
setsid datera-sim --lio --data-dir=/data --backends-dir=/data/backends --endpoint=https://%s:7718 %s %s </dev/null >>/var/log/datera-sim.log 2>&1 &
`, a.Addr(0), access, strings.Join(cfg.ArrayFlags, " "))
	if err := a.Put(ctx, strings.NewReader(script), "/etc/testbed", 0o755); err != nil {
		return nil, err
	}
	if _, err := a.Run(ctx, "/etc/testbed"); err != nil {
		return nil, fmt.Errorf("start the array: %w", err)
	}
	return a, a.fetchBackend(ctx)
}

// fetchBackend copies the directory that datera-sim wrote, once the array answers.
func (a *Array) fetchBackend(ctx context.Context) error {
	if err := a.Ready(ctx); err != nil {
		return err
	}
	a.Backends = filepath.Join(a.lab.Dir, "backends")
	dir := filepath.Join(a.Backends, "default")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, name := range []string{"endpoint", "tenant", "username", "password", "ca.crt"} {
		content, err := a.Get(ctx, "/data/backends/default/"+name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// Ready waits until the array answers.
func (a *Array) Ready(ctx context.Context) error {
	return eventually(ctx, "the array to answer", time.Minute, func() error {
		_, err := a.Shell(ctx, "test -s /data/backends/default/ca.crt && busybox nc -w 1 "+a.Addr(0).String()+" 7718 </dev/null")
		return err
	})
}

// RestartProcess kills the simulator, whose targets go on serving, and starts it again.
func (a *Array) RestartProcess(ctx context.Context) error {
	if _, err := a.Shell(ctx, "pkill -KILL -x datera-sim; while pgrep -x datera-sim >/dev/null; do sleep 0.05; done; /etc/testbed"); err != nil {
		return err
	}
	return a.Ready(ctx)
}

// REST sends one request to the array as its administrator and decodes the data of the answer.
func (a *Array) REST(ctx context.Context, method, path string, body, into any) error {
	client, endpoint, err := a.client()
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	var login struct {
		Key string `json:"key"`
	}
	user, password := a.file("username"), a.file("password")
	if err := exchange(ctx, client, http.MethodPut, endpoint+"/v2.2/login", "", map[string]string{"name": user, "password": password}, &login); err != nil {
		return err
	}
	answer := struct {
		Data any `json:"data"`
	}{into}
	return exchange(ctx, client, method, endpoint+"/v2.2"+path, login.Key, body, &answer)
}

func (a *Array) client() (*http.Client, string, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(a.file("ca.crt"))) {
		return nil, "", errors.New("the array's ca.crt holds no certificate")
	}
	transport := &http.Transport{
		DialContext:     a.lab.Net.DialContext,
		TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
	}
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}, a.file("endpoint"), nil
}

// file is a file of the backend; one that is missing shows as a failed request.
func (a *Array) file(name string) string {
	content, err := os.ReadFile(filepath.Join(a.Backends, "default", name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(content))
}

func exchange(ctx context.Context, client *http.Client, method, url, token string, body, into any) error {
	payload, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(payload))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Auth-Token", token)
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close() //nolint:errcheck // only read
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, req.URL.Path, res.Status, answer)
	}
	return json.Unmarshal(answer, into)
}

// AppInstances are the names of all app instances.
func (a *Array) AppInstances(ctx context.Context) ([]string, error) {
	var all []struct {
		Name string `json:"name"`
	}
	if err := a.REST(ctx, http.MethodGet, "/app_instances", nil, &all); err != nil {
		return nil, fmt.Errorf("list app instances: %w", err)
	}
	names := make([]string, len(all))
	for i, ai := range all {
		names[i] = ai.Name
	}
	return names, nil
}

// Leftovers are app instances, targets, backstores and backing files that exist.
func (a *Array) Leftovers(ctx context.Context) ([]string, error) {
	names, err := a.AppInstances(ctx)
	if err != nil {
		return nil, err
	}
	left := make([]string, 0, len(names))
	for _, name := range names {
		left = append(left, "array: app instance "+name)
	}
	out, err := a.Shell(ctx, `
for d in /sys/kernel/config/target/iscsi/iqn.*; do [ -e "$d" ] && echo "target ${d##*/}"; done
for d in /sys/kernel/config/target/core/*/*/enable; do [ -e "$d" ] && echo "backstore $d"; done
for f in /data/volumes/* /data/snapshots/*; do [ -e "$f" ] && echo "file $f"; done; true`)
	return append(left, lines("array: ", out)...), err
}
