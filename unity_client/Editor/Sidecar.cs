using System;
using System.IO;
using System.Net.Sockets;
using UnityEditor;
using UnityEngine;

namespace Everscene.Editor
{
    /// <summary>
    /// The sidecar that this Editor has started, if it has. The process id lives in SessionState, so that it survives a
    /// reload; the command is a setting of this machine, not of the project. When Play begins it is started for the
    /// first component that asks for it, unless something listens already. It is stopped when the Editor quits.
    /// </summary>
    [InitializeOnLoad]
    public static class Sidecar
    {
        const string IdKey = "Everscene.Sidecar.Id";
        const string CommandKey = "Everscene.Sidecar.Command";
        const string DefaultCommand = "everscene";

        static Sidecar()
        {
            EditorApplication.playModeStateChanged += HearPlayMode;
            EditorApplication.quitting += Stop;
        }

        public static string Log => Path.GetFullPath(Path.Combine("Library", "Everscene", "sidecar.log"));

        /// <summary>What starts the sidecar: `everscene`, or a path such as `/home/me/everscene/.venv/bin/everscene`.</summary>
        public static string Command
        {
            get => EditorPrefs.GetString(CommandKey, DefaultCommand);
            set => EditorPrefs.SetString(CommandKey, value);
        }

        public static bool IsRunning => SidecarProcess.IsRunning(SessionState.GetInt(IdKey, 0));

        public static void Start(string arguments)
        {
            if (IsRunning) return;
            try
            {
                SessionState.SetInt(IdKey, SidecarProcess.Start(Command, "serve " + arguments, Log));
            }
            catch (InvalidOperationException failure)
            {
                Debug.LogError("Everscene: " + failure.Message);
            }
        }

        public static void Stop()
        {
            SidecarProcess.Stop(SessionState.GetInt(IdKey, 0));
            SessionState.EraseInt(IdKey);
        }

        static void HearPlayMode(PlayModeStateChange change)
        {
            if (change != PlayModeStateChange.ExitingEditMode) return;
            foreach (EversceneStream stream in Resources.FindObjectsOfTypeAll<EversceneStream>())
            {
                bool wants = stream.LaunchInEditor && stream.isActiveAndEnabled && !EditorUtility.IsPersistent(stream);
                if (!wants || IsRunning || SomethingListens(stream.Endpoint)) continue;
                Start(stream.LaunchArguments);
                return;
            }
        }

        // Only ever asked of this machine, where the answer comes at once.
        static bool SomethingListens(string address)
        {
            try
            {
                Endpoint endpoint = Endpoint.Parse(address);
                bool isHere = endpoint.Host == "127.0.0.1" || endpoint.Host == "localhost" || endpoint.Host == "::1";
                if (!isHere) return true; // what runs elsewhere is not ours to start
                using (var probe = new TcpClient())
                    probe.Connect(endpoint.Host, endpoint.Port);
                return true;
            }
            catch (SocketException)
            {
                return false;
            }
            catch (ArgumentException)
            {
                return true; // a wrong endpoint: the component says so itself
            }
        }
    }
}
