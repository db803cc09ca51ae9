package sim

import "strings"

// auth is the CHAP configuration of a storage instance. The target's user is
// what an initiator presents, the initiator's user what the target presents
// back.
type auth struct {
	Type              string // none, chap or mchap
	TargetUser        string
	TargetPassword    string
	InitiatorUser     string
	InitiatorPassword string
	AccessKey         string // object service
	SecretKey         string
}

const hidden = "(hidden)"

func authFields() []field {
	name := "a letter or _, then letters, digits, _ - . ; 3 to 64 characters"
	length := "12 to 16 characters, no blanks"
	return []field{
		choice("type", "none", "chap", "mchap").must(),
		text("target_user_name").like(reName, name),
		text("target_pswd").like(rePassword, length).hidden(),
		text("initiator_user_name").like(reName, name),
		text("initiator_pswd").like(rePassword, length).hidden(),
		text("access_key"),
		text("secret_key").hidden(),
	}
}

func (a *Array) authRoutes() []route {
	return []route{{path: storagePath + "/:si/auth", ops: map[string]op{
		"GET": {do: getAuth, descr: "read the CHAP configuration, without its secrets"},
		"PUT": {do: updateAuth, in: authFields(), descr: "set the CHAP configuration"}}}}
}

func getAuth(r *request) (any, error) {
	si, err := r.storage()
	if err != nil {
		return nil, err
	}
	return renderAuth(r.storagePath(si), si.Auth), nil
}

func updateAuth(r *request) (any, error) {
	si, err := r.storage()
	if err != nil {
		return nil, err
	}
	if si.Auth, err = r.newAuth(si.Auth, r.body); err != nil {
		return nil, err
	}
	r.export(si)
	r.saveApp(si.app)
	return renderAuth(r.storagePath(si), si.Auth), nil
}

func (r *request) planAuth(si *storageInstance, b body, p *plan) error {
	if !b.has("auth") {
		return nil
	}
	changed, err := r.newAuth(si.Auth, b.obj("auth"))
	if err != nil {
		return err
	}
	p.add(func() { si.Auth = changed; r.export(si) })
	return nil
}

// newAuth is what old becomes by a request. Members that the request leaves
// out stay, except that none leaves nothing and chap nothing mutual. What a data
// plane cannot hold is refused before it is anywhere.
func (r *request) newAuth(old auth, b body) (auth, error) {
	a := auth{Type: b.str("type"), AccessKey: b.or("access_key", old.AccessKey), SecretKey: b.or("secret_key", old.SecretKey)}
	if a.Type == "none" {
		return a, nil
	}
	for _, key := range []string{"target_user_name", "target_pswd", "initiator_user_name", "initiator_pswd"} {
		if r.array.cfg.Exporter != nil && strings.HasPrefix(b.str(key), "NULL") {
			return old, errValidation("auth: " + key + " must not begin with NULL, which means none to an iSCSI target of Linux")
		}
	}
	a.TargetUser = b.or("target_user_name", old.TargetUser)
	a.TargetPassword = b.or("target_pswd", old.TargetPassword)
	if a.TargetUser == "" || a.TargetPassword == "" {
		return old, errValidation("auth: type " + a.Type + " needs target_user_name and target_pswd")
	}
	if a.Type == "chap" {
		return a, nil
	}
	a.InitiatorUser = b.or("initiator_user_name", old.InitiatorUser)
	a.InitiatorPassword = b.or("initiator_pswd", old.InitiatorPassword)
	if a.InitiatorUser == "" || a.InitiatorPassword == "" {
		return old, errValidation("auth: type mchap needs initiator_user_name and initiator_pswd")
	}
	return a, nil
}

func renderAuth(base string, a auth) object {
	o := object{
		{"path", base + "/auth"},
		{"type", a.Type},
		{"initiator_user_name", a.InitiatorUser},
		{"initiator_pswd", hidden},
		{"target_user_name", a.TargetUser},
		{"target_pswd", hidden},
	}
	o.setIf(a.AccessKey != "", "access_key", a.AccessKey)
	o.setIf(a.SecretKey != "", "secret_key", hidden)
	return o
}
