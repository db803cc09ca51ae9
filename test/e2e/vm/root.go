package vm

import (
	"context"
	"encoding/json"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// BecomeRoot makes this process root's: it does nothing for root, and else starts the program again by
// sudo that asks for no password, in which case it does not return. What the user says in the environment
// or by go env -w counts there; files of the image, build and module caches are root's own.
func BecomeRoot(ctx context.Context) error {
	sudo, err := sudoPrefix(ctx)
	if err != nil || sudo == nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	path, err := exec.LookPath(sudo[0])
	if err != nil {
		return err
	}
	settings := map[string]string{}
	if out, goErr := exec.CommandContext(ctx, "go", "env", "-json").Output(); goErr == nil { // a lab without Go needs none
		if err = json.Unmarshal(out, &settings); err != nil {
			return err
		}
	}
	argv, env := forRoot(os.Environ(), settings)
	return syscall.Exec(path, slices.Concat(sudo, argv, []string{self}, os.Args[1:]), env)
}

// forRoot is how root's process gets the user's environment: what sudo is told, in front of the program, and
// the environment of sudo. The values, some of which are secrets, are no arguments, but for those that sudo
// sets or the loader takes away from it. Root writes into no cache of the user's, whom its files would lock
// out; what the user's Go has downloaded, it reads.
func forRoot(environ []string, goSettings map[string]string) (argv, env []string) {
	values := map[string]string{}
	for _, pair := range environ {
		key, value, _ := strings.Cut(pair, "=")
		values[key] = value
	}
	for _, key := range []string{"GOFLAGS", "GOINSECURE", "GONOPROXY", "GONOSUMDB", "GOPRIVATE", "GOPROXY", "GOSUMDB", "GOTOOLCHAIN", "GOVCS"} {
		if value := goSettings[key]; value != "" {
			values[key] = value
		}
	}
	if proxy, modules := values["GOPROXY"], goSettings["GOMODCACHE"]; proxy != "" && modules != "" {
		downloaded := url.URL{Scheme: "file", Path: filepath.Join(modules, "cache", "download")}
		values["GOPROXY"] = downloaded.String() + "|" + proxy
	}
	set := []string{"PATH=" + values["PATH"] + ":/usr/sbin:/sbin"}
	if dir := values["TMPDIR"]; dir != "" {
		set = append(set, "TMPDIR="+dir)
	}
	if dir := values["XDG_CACHE_HOME"]; dir != "" {
		set = append(set, "XDG_CACHE_HOME="+filepath.Join(dir, "root"))
	}
	var names []string
	for key, value := range values {
		env = append(env, key+"="+value)
		if !ofUser(key) {
			names = append(names, key)
		}
	}
	slices.Sort(names)
	slices.Sort(env)
	return slices.Concat([]string{"-H", "--preserve-env=" + strings.Join(names, ","), "env"}, set), env
}

// ofUser tells the variables that say who the user is and where the user's files are, or that forRoot sets.
func ofUser(key string) bool {
	switch key {
	case "PATH", "TMPDIR", "HOME", "USER", "LOGNAME", "SHELL", "MAIL", "PWD", "OLDPWD", "_", "SHLVL",
		"GOBIN", "GOCACHE", "GOCACHEPROG", "GOENV", "GOMODCACHE", "GOPATH":
		return true
	}
	return strings.HasPrefix(key, "XDG_") || strings.HasPrefix(key, "SUDO_") || strings.HasPrefix(key, "LD_") || strings.ContainsAny(key, ",%()")
}
