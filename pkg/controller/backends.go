package controller

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/datera-csi/datera-csi/pkg/dateraclient"
)

// Files of a backend, as the keys of a Kubernetes Secret.
const (
	fileEndpoint = "endpoint"                 // http://HOST[:PORT] or https://HOST[:PORT]
	fileTenant   = "tenant"                   // /root or /root/NAME; absent: /root
	fileUser     = "username"                 //
	filePassword = "password"                 //
	fileCA       = "ca.crt"                   // PEM; absent: the system's roots
	fileInsecure = "insecure-skip-tls-verify" // true: any certificate will do; absent: false
	fileProxy    = "proxy"                    // http://HOST:PORT or https://HOST:PORT; absent: none, whatever the environment says
)

// BackendsConfig says where backends are and how to speak to them.
type BackendsConfig struct {
	Dir         string // holds one directory a backend, each named like its backend
	Concurrency int    // most requests at once to one backend
	Agent       string // how the array sees this driver, e.g. datera-csi-1.0.0
}

// Backends finds the array that serves a volume. A backend is a directory of
// small files, as Kubernetes mounts a Secret. Files are read when they are
// needed: a backend added later is found, a changed one gets a new client, and
// a rotated user or password is read at the next login, all without a restart.
// It is safe for concurrent use.
type Backends struct {
	cfg BackendsConfig

	mu      sync.Mutex
	clients map[string]client // by backend
}

// client is a client and the settings it was made from.
type client struct {
	settings settings
	array    *dateraclient.Client
}

// settings of a backend but for its credentials.
type settings struct {
	endpoint, tenant, ca, proxy string
	insecure                    bool
}

// OpenBackends returns the backends below cfg.Dir. It reads nothing yet: an
// empty or missing directory shows in Names, Ready and in every RPC.
func OpenBackends(cfg BackendsConfig) *Backends {
	return &Backends{cfg: cfg, clients: make(map[string]client)}
}

// Names lists the backends that there are now.
func (b *Backends) Names() ([]string, error) {
	names, _, err := b.directories()
	return names, err
}

// directories are the names of the backends, and what is wrong with the names of
// those that are none for it.
func (b *Backends) directories() (names []string, misnamed []error, err error) {
	entries, err := os.ReadDir(b.cfg.Dir)
	if err != nil {
		return nil, nil, fmt.Errorf("read the backends: %w", err)
	}
	for _, entry := range entries {
		path := filepath.Join(b.cfg.Dir, entry.Name())
		info, statErr := os.Stat(path) // a symbolic link to a directory counts
		if statErr != nil || !info.IsDir() || strings.HasPrefix(entry.Name(), ".") {
			continue // Kubernetes adds ..data and its like
		}
		if nameErr := checkBackendName(entry.Name()); nameErr != nil {
			misnamed = append(misnamed, fmt.Errorf("directory %s: %w", path, nameErr))
			continue
		}
		names = append(names, entry.Name())
	}
	return names, misnamed, nil
}

// Check reads every backend's files and names what is wrong with them. It asks
// nothing of any array.
func (b *Backends) Check() error {
	_, err := b.usable()
	return err
}

// Ready says that there is a backend to work with; else it names what is wrong
// with each. Those that are unfit beside it fail the calls that need them, and
// nothing else.
func (b *Backends) Ready() error {
	n, err := b.usable()
	if n > 0 {
		return nil
	}
	return err
}

// usable counts the backends whose files are fit, and says what is wrong with the
// others.
func (b *Backends) usable() (int, error) {
	names, misnamed, err := b.directories()
	if err != nil {
		return 0, err
	}
	if len(names) == 0 {
		return 0, errors.Join(append(misnamed, fmt.Errorf("%s holds no backend: make a directory %s with the files %s, %s and %s",
			b.cfg.Dir, filepath.Join(b.cfg.Dir, defaultBackend), fileEndpoint, fileUser, filePassword))...)
	}
	var errs []error
	for _, name := range names {
		_, err := b.array(name)
		if err == nil {
			_, _, err = credentials(filepath.Join(b.cfg.Dir, name))
		}
		if err == nil {
			_, err = b.topology(name)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return len(names) - len(errs), errors.Join(append(errs, misnamed...)...)
}

// array is the array of a backend. A backend that does not exist is
// errUnknownBackend; one whose files are unfit is errBackend.
func (b *Backends) array(name string) (Array, error) {
	dir := filepath.Join(b.cfg.Dir, name)
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir():
		return nil, b.unknown(name)
	case err != nil:
		return nil, fmt.Errorf("backend %s: %w: %w", name, errBackend, err)
	}
	now, err := readSettings(dir)
	if err != nil {
		return nil, fmt.Errorf("backend %s: %w: %w", name, errBackend, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	old, ok := b.clients[name]
	if ok && old.settings == now {
		return old.array, nil
	}
	fresh, err := b.connect(dir, now)
	if err != nil {
		return nil, fmt.Errorf("backend %s: %w: %w", name, errBackend, err)
	}
	if ok {
		old.array.Close()
	}
	b.clients[name] = fresh
	return fresh.array, nil
}

// unknown is the error of a backend that is not there. One that was there may hold
// what an earlier call has made, and may come back.
func (b *Backends) unknown(name string) error {
	names, err := b.Names()
	if err != nil {
		return fmt.Errorf("backend %s: %w: %w", name, errBackend, err)
	}
	b.mu.Lock()
	_, served := b.clients[name]
	b.mu.Unlock()
	if served {
		return fmt.Errorf("backend %s: %w: its directory in %s is gone", name, errBackend, b.cfg.Dir)
	}
	slices.Sort(names)
	return fmt.Errorf("%w: %q is not among the backends in %s (%s)", errUnknownBackend, name, b.cfg.Dir, strings.Join(names, ", "))
}

func (b *Backends) connect(dir string, s settings) (client, error) {
	endpoint, err := url.Parse(s.endpoint)
	if err != nil {
		return client{}, fmt.Errorf("file %s holds no address; write https://HOST:PORT", filepath.Join(dir, fileEndpoint))
	}
	proxy, err := parseProxy(dir, s.proxy)
	if err != nil {
		return client{}, err
	}
	web, err := dateraclient.HTTPClient([]byte(s.ca), s.insecure)
	if err != nil {
		return client{}, fmt.Errorf("file %s: %w", filepath.Join(dir, fileCA), err)
	}
	array, err := dateraclient.New(dateraclient.Config{
		Endpoint:    endpoint,
		Tenant:      s.tenant,
		Credentials: func() (user, password string, err error) { return credentials(dir) },
		HTTP:        web,
		Proxy:       proxy,
		Concurrency: b.cfg.Concurrency,
		Agent:       b.cfg.Agent,
	})
	if err != nil {
		return client{}, fmt.Errorf("files %s and %s in %s: %w", fileEndpoint, fileTenant, dir, err)
	}
	return client{settings: s, array: array}, nil
}

// parseProxy takes none for nothing. The array's password does not go through it in
// the clear when the endpoint is https.
func parseProxy(dir, text string) (*url.URL, error) {
	if text == "" {
		return nil, nil //nolint:nilnil // no proxy is the rule
	}
	proxy, err := url.Parse(text)
	if err != nil || proxy.Host == "" || proxy.Scheme != "http" && proxy.Scheme != "https" {
		return nil, fmt.Errorf("file %s holds no address; write http://HOST:PORT or https://HOST:PORT", filepath.Join(dir, fileProxy))
	}
	return proxy, nil
}

// snapshot is the directory as it is now. Kubernetes swaps a Secret by turning
// the link ..data, so files read through its target belong together: an endpoint
// of today never meets a tenant of tomorrow.
func snapshot(dir string) string {
	target, err := os.Readlink(filepath.Join(dir, "..data"))
	switch {
	case err != nil: // no mounted Secret
		return dir
	case filepath.IsAbs(target):
		return target
	}
	return filepath.Join(dir, target)
}

// swaps is how often a Secret may change under one look at it.
const swaps = 10

// together reads files of a snapshot of dir. Kubernetes removes the old directory once
// the link is turned, so that a file may be missing from it which there always was,
// and to miss a tenant would be to work in another one. What was read while the link
// did not turn is whole; else it is read again.
func together(dir string, read func(now string) error) error {
	now := snapshot(dir)
	for range swaps {
		err := read(now)
		after := snapshot(dir)
		if after == now {
			return err
		}
		now = after
	}
	return fmt.Errorf("the files in %s change faster than they can be read", dir)
}

func readSettings(dir string) (s settings, err error) {
	err = together(dir, func(now string) error {
		s, err = settingsIn(dir, now)
		return err
	})
	return s, err
}

// settingsIn reads the settings of a snapshot of dir, which is what errors name.
func settingsIn(dir, now string) (settings, error) {
	var s settings
	var err error
	if s.endpoint, err = required(dir, now, fileEndpoint, "https://HOST:7718 of the array"); err != nil {
		return settings{}, err
	}
	if s.tenant, err = optional(now, fileTenant, "/root"); err != nil {
		return settings{}, err
	}
	if s.ca, err = optional(now, fileCA, ""); err != nil {
		return settings{}, err
	}
	if s.proxy, err = optional(now, fileProxy, ""); err != nil {
		return settings{}, err
	}
	insecure, err := optional(now, fileInsecure, "false")
	if err != nil {
		return settings{}, err
	}
	if s.insecure, err = parseBool(insecure); err != nil {
		return settings{}, fmt.Errorf("file %s: %q %w", filepath.Join(dir, fileInsecure), insecure, err)
	}
	if s.insecure && s.ca != "" {
		return settings{}, fmt.Errorf("file %s: true contradicts %s; remove one of them", filepath.Join(dir, fileInsecure), fileCA)
	}
	return s, nil
}

// credentials reads who to log in as. Errors never hold a value.
func credentials(dir string) (user, password string, err error) {
	err = together(dir, func(now string) error {
		if user, err = required(dir, now, fileUser, "the array's user"); err != nil {
			return err
		}
		password, err = required(dir, now, filePassword, "the user's password")
		return err
	})
	if err != nil {
		return "", "", fmt.Errorf("%w: %w", errBackend, err)
	}
	return user, password, nil
}

// required reads a file that must be there and hold something.
func required(dir, now, name, what string) (string, error) {
	value, err := optional(now, name, "")
	if err != nil {
		return "", err
	}
	if value == "" {
		return "", fmt.Errorf("file %s is missing or empty: write %s into it", filepath.Join(dir, name), what)
	}
	return value, nil
}

// optional reads a file without the newlines at its end, which editors add and
// no value has.
func optional(dir, name, absent string) (string, error) {
	data, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return absent, nil
	}
	if err != nil {
		return "", fmt.Errorf("read a backend's file: %w", err)
	}
	return strings.TrimRight(string(data), "\r\n"), nil
}
