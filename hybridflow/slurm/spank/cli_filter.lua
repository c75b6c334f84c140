-- cli_filter.lua: gives --qpu its effect on scheduling. Lies beside slurm.conf, with qpus.names;
-- slurm.conf says CliFilterPlugins=cli_filter/lua. If your site has a cli_filter.lua of its own,
-- call hybridflow_add_slots(options) from its slurm_cli_pre_submit and return what that returns.
--
-- It runs in the user's own sbatch, srun or salloc, and may be bypassed: then the job fails when it
-- starts, since the plugin looks at what the job was granted and never at the option.

local folder = (os.getenv("SLURM_CONF") or "/etc/slurm/slurm.conf"):match("^(.*)/[^/]*$")

-- The lines of qpus.names: NAME gres, or NAME license.
local function allocations()
    local file, reason = io.open(folder .. "/qpus.names")
    if not file then
        return nil, reason
    end
    local found, known = {}, {}
    for line in file:lines() do
        local name, allocation = line:match("^([%w_.-]+)%s+(%a+)%s*$")
        if name then
            found[name] = allocation
            known[#known + 1] = name
        end
    end
    file:close()
    return found, table.concat(known, ", ")
end

-- Whether a list like "gpu:2,qpu:NAME:1" already asks for what begins with these words.
local function asks_for(list, words)
    for one in list:gmatch("[^,]+") do
        if one == words or one:sub(1, #words + 1) == words .. ":" then
            return true
        end
    end
    return false
end

local function extended(list, words)
    list = (list or ""):gsub("gres:", "")
    if asks_for(list, words) then
        return list
    end
    return (list == "" and "" or list .. ",") .. words .. ":1"
end

function hybridflow_add_slots(options)
    -- The plugin sets this for the component that has an own --qpu. The option's value itself
    -- (options["spank"]) stays as it was from one component of a heterogeneous job to the next.
    local asked = os.getenv("HYBRIDFLOW_QPU_ASKED")
    -- A step of a job that exists: the job's allocation has been asked for before.
    local job = options["jobid"]
    if not asked or (options.type == "srun" and job and job ~= "unset") then
        return slurm.SUCCESS
    end
    local known, text = allocations()
    if not known then
        slurm.log_error("hybridflow: the list of QPUs cannot be read: %s", text)
        return slurm.ERROR
    end
    for name in asked:gmatch("[^,]+") do
        if known[name] == "license" then
            options["licenses"] = extended(options["licenses"], name)
        elseif known[name] == "gres" then
            options["gres"] = extended(options["gres"], "qpu:" .. name)
        else
            slurm.log_error("hybridflow: there is no QPU \"%s\"; known are: %s", name, text)
            return slurm.ERROR
        end
    end
    return slurm.SUCCESS
end

function slurm_cli_setup_defaults(options, early_pass)
    return slurm.SUCCESS
end

function slurm_cli_pre_submit(options, offset)
    return hybridflow_add_slots(options)
end

function slurm_cli_post_submit(offset, job_id, step_id)
    return slurm.SUCCESS
end
